"""What every wing stands on: devices, seeds, progress, arguments, files, undoing."""
