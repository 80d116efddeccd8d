"""Executors: tasks in this process, in others, or on other machines."""
