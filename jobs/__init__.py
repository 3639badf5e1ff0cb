"""The verbs of `iak`: parse settings, call the library, show the result. Only jobs import Ray."""
