"""What files of unknown makers say."""
