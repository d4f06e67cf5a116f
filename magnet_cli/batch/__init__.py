"""Many clips from a file of prompts: made once each, whatever stops the run in between."""
