"""Write what a person reads in the morning: the page of a night, the index, one line for chat."""
