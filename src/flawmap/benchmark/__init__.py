"""Trainings and evaluations of every category of a data set, over seeds, beside published figures."""
