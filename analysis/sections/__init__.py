"""The sections of the report, each from the evidence to HTML."""
