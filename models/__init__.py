"""Networks, training, export and evaluation: the only rooms with torch.

May import `appliance`; `appliance` never imports this package.
"""
