"""Files that older tools wrote, one module per tool."""
