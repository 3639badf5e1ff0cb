"""Read histories value by value, beside their means in x."""
