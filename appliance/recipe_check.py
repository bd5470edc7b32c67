"""A recipe held against its bundles, and its regions against what the cameras show: said by
`inspectd config check` and `inspectd doctor` before anything is started.

A region beyond the camera's picture would make every part an ERROR. How large the picture is can
be known from the recipe, from `config.toml`, or from the folder or recording that is shown; where
none of them says it, the device alone knows, and nothing is said here.
"""

import msgspec

from appliance.bundle import InputContract, load_bundles
from appliance.camera_files import pictures_of
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.errors import DeviceError
from appliance.messages import camera_label
from appliance.recipe import RecipeError, View, load_recipe


def check_recipe(config: Config, name: str) -> str:
    """The recipe "ID/VERSION" with its bundles, in words. Raises ArtefactError."""
    loaded = load_recipe(config, name)
    wanted = loaded.recipe.bundles(config.cameras)
    bundles = {bundle.id: bundle for bundle in load_bundles(config.bundles_dir, wanted)}
    for camera in config.camera:
        contract = bundles[loaded.recipe.terms(camera.name).bundle].manifest.input
        where = f"{config.recipes_dir / loaded.path}: camera.{camera.name}.roi"
        _check_region(
            config, camera, loaded.recipe.camera.get(camera.name, View()), contract, where
        )
    told = ", ".join(identity[:12] for identity in bundles)
    return f"recipe {name} ({loaded.hash[:12]}), bundle {told}"


def _check_region(
    config: Config, camera: Camera, view: View, contract: InputContract, where: str
) -> None:
    """Raises RecipeError: the region is not in the picture, or there is none and the picture is not
    of the training images' size."""
    source = contract.source_width_px, contract.source_height_px
    size, told_by = _size_px(config, camera, view)
    if size is not None:
        is_cut = view.roi is not None or view.fixture is not None
        if not is_cut and size != source:
            expected = f"a region of {_px(source)} as the training images"
            raise RecipeError(where, expected, f"none, and pictures of {_px(size)} ({told_by})")
    elif camera.width_px and camera.height_px:
        size, told_by = (camera.width_px, camera.height_px * camera.blocks), "width_px, height_px"
    else:
        return
    x, y, width, height = view.roi or (0, 0, *source)
    if x + width > size[0] or y + height > size[1]:
        got = view.roi or f"none, so the {_px(source)} of the training images"
        expected = f"a region within the camera's {_px(size)} ({told_by})"
        raise RecipeError(where, expected, f"{got}")


def _size_px(config: Config, camera: Camera, view: View) -> tuple[tuple[int, int] | None, str]:
    """Width and height of the camera's pictures, and who says so; None where nobody does."""
    if camera.kind == "genicam":
        if view.sensor_roi is None:
            return None, ""
        return (view.sensor_roi[2], view.sensor_roi[3] * camera.blocks), "sensor_roi"
    if config.is_elsewhere(camera_label(camera.name)):
        return None, ""
    folder = config.root_dir / camera.folder
    try:
        shown = pictures_of(msgspec.structs.replace(camera, folder=str(folder)))
        height, width = shown[0].shape[:2]
    except DeviceError:  # a folder that is not there yet is a camera that is not there yet
        return None, ""
    return (width, height * camera.blocks), shown.name(0)


def _px(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} pixels"
