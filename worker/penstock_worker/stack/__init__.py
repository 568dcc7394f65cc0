"""What `penstock up` runs: embedded servers where no URL is set, and worker, beat and Flower."""
