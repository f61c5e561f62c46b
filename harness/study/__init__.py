"""The study's analyses: functions of graded samples and of evaluations, without files, models or screens."""
