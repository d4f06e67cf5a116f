"""What files of unknown makers say: read within bounds, and shown as no more than it is."""
