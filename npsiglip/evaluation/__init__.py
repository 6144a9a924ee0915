"""How well a model does on pictures that come with classes or captions: `npsiglip evaluate`, and the model card."""
