"""The neural networks: language model, codecs, text encoders."""
