"""`iak plan`: what a job needs of a cluster, before anything is rented."""
