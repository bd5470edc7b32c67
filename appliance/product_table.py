"""`products.toml`, the integrator's: which recipe each product number of the PLC means."""

from appliance.config import Config
from appliance.errors import ConfigError
from appliance.toml_file import Section, read_toml


class Product(Section, frozen=True, kw_only=True):
    """One row of `products.toml`: what the PLC calls a product."""

    number: int
    recipe: str
    """"ID/VERSION"."""


class Products(Section, frozen=True, kw_only=True):
    """`products.toml`."""

    product: tuple[Product, ...]


def load_products(config: Config) -> dict[int, str]:
    """PLC product number → "ID/VERSION". Raises ConfigError."""
    path = config.root_dir / "products.toml"
    products = read_toml(path, Products).product
    numbers = [product.number for product in products]
    for number in numbers:
        if not 1 <= number <= 0xFFFFFFFF:
            raise ConfigError(f"{path}: product.number", "1 to 4294967295", str(number))
        if numbers.count(number) > 1:
            raise ConfigError(f"{path}: product.number", "each number once", f"{number} twice")
    return {product.number: product.recipe for product in products}
