"""What tests do with data modules."""

from datasets import GraphDataModule


def prepared(module: GraphDataModule) -> GraphDataModule:
    module.prepare_data()
    module.setup("fit")
    return module
