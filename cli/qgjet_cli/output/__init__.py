"""What commands write: the terminal, downloaded artifacts, reports."""
