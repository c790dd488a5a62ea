"""Image encoder, mapper, language model, tokenizer and transform as one object, and the files it is kept in."""
