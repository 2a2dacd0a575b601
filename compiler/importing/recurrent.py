"""Recurrent layers of torch."""
