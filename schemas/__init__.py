"""Define the project's documents. This room imports no torch and no Ray, and reads no file."""
