# What a config of another package needs to name parts of mmprune: type='mmprune.DeployedModel'.
custom_imports = dict(imports=['mmprune'], allow_failed_imports=False)
