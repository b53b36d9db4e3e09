"""The CustomResourceDefinitions: schemas generated from the models, and admission rules."""
