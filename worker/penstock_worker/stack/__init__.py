"""What `penstock up` runs: embedded servers where no URL is set, and workers, beat and Flower."""
