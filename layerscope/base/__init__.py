"""Foundations of every wing: devices, seeds, progress, arguments, files, undoing."""
