"""From a name to a folder with a model: what lies on this machine (`cache`), and what is fetched (`download`)."""
