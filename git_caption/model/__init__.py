"""The networks: image encoders, mappers, language models, and the captioning network joined from them."""
