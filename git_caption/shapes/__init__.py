"""The embedded example: scenes of a few coloured shapes with their pictures, captions, questions and scores."""
