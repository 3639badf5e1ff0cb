"""`iak plan`: estimate what a job needs of a cluster before it is rented."""
