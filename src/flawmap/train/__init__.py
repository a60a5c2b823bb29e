"""The three trainings of DSR and what they share."""
