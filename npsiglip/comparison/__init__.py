"""One picture, one list of labels, several models side by side: `npsiglip compare`, and the server's page."""
