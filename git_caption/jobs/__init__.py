"""The jobs behind `inference.py`: one unit of work each, named in a table and imported when run."""
