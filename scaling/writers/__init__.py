"""Plans as configurations of other trainers, a module each; `scaling.trainerfiles` chooses."""
