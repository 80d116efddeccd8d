"""Exported models in the form that other programs take."""
