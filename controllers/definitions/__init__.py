"""The CustomResourceDefinitions, generated from the models, with admission rules."""
