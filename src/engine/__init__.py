"""What every run does. Nobody needs to open it to use the template; a newer version of it replaces it as a whole."""
