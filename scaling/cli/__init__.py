"""The front door: one file per verb; each parses, calls one room of the house and prints."""
