"""A verdict as the structures of OPC 40100-1. Their classes exist once the nodeset is loaded.

JobId is the part's 64-bit id, MeasId the AcqID, PartId the text that the PLC gave (or its tag), the
internal recipe id carries the hash of the whole recipe file.
"""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

from datetime import datetime, timedelta, timezone
from typing import Any

from asyncua import ua

from appliance.codes import Reason, Word
from appliance.messages import Verdict

COMPLETED, ABORTED, FAILED = 1, 3, 4
"""ResultState of OPC 40100-1: a verdict of the model, closed by a restart, no judgement."""
_types: Any = ua


def recipe_id(name: str, recipe_hash: str) -> Any:
    """RecipeIdInternalDataType of "ID/VERSION"."""
    identity, _, version = name.partition("/")
    return _types.RecipeIdInternalDataType(
        Id=identity,
        Version=version,
        Hash=bytes.fromhex(recipe_hash) if recipe_hash else b"",
        HashAlgorithm="SHA-256",
        Description=ua.LocalizedText(name),
    )


def result_state(verdict: Verdict) -> int:
    """Whether the part was judged at all."""
    if verdict.word != Word.ERROR:
        return COMPLETED
    return ABORTED if verdict.reason == Reason.RESTART else FAILED


def opened_at(verdict: Verdict) -> datetime:
    """Wall-clock label of the trigger."""
    return datetime.fromtimestamp(verdict.opened_utc_ns / 1e9, timezone.utc)


def closed_at(verdict: Verdict) -> datetime:
    """Wall-clock label of the verdict."""
    return opened_at(verdict) + timedelta(microseconds=verdict.latency_ns / 1e3)


def content(verdict: Verdict) -> list[ua.Variant]:
    """Word, its name, reason, margin, T1, T2, worst region (x, y, w, h), detail, reasons."""
    variant, kind = ua.Variant, ua.VariantType
    figures = (
        float("nan") if value is None else float(value)
        for value in (verdict.margin, verdict.t1, verdict.t2)
    )
    return [
        variant(int(verdict.word), kind.UInt16),
        variant(verdict.word.name, kind.String),
        variant(int(verdict.reason), kind.UInt16),
        *(variant(figure, kind.Double) for figure in figures),
        variant(list(verdict.region_px or (0, 0, 0, 0)), kind.Int32),
        variant(verdict.detail, kind.String),
        variant(list(verdict.reasons), kind.String),
    ]


def result(verdict: Verdict, configuration: Any) -> Any:
    """ResultDataType."""
    part = verdict.part_text or str(verdict.part_tag)
    camera_ns = verdict.stages_ns.get("picture", 0)
    return _types.ResultDataType(
        ResultId=_types.ResultIdDataType(Id=str(verdict.part_id)),
        HasTransferableDataOnFile=False,
        IsPartial=False,
        IsSimulated=verdict.is_simulated,
        ResultState=result_state(verdict),
        MeasId=_types.MeasIdDataType(Id=str(verdict.acq_id)),
        PartId=_types.PartIdDataType(Id=part, Description=ua.LocalizedText(f"{verdict.part_tag}")),
        InternalRecipeId=recipe_id(verdict.recipe, verdict.recipe_hash),
        ExternalRecipeId=_types.RecipeIdExternalDataType(Id=verdict.recipe),
        ProductId=_types.ProductIdDataType(Id=verdict.recipe.partition("/")[0]),
        InternalConfigurationId=configuration,
        ExternalConfigurationId=configuration,
        JobId=_types.JobIdDataType(Id=str(verdict.part_id)),
        CreationTime=closed_at(verdict),
        ProcessingTimes=_types.ProcessingTimesDataType(
            StartTime=opened_at(verdict),
            EndTime=closed_at(verdict),
            AcquisitionDuration=camera_ns / 1e6,
            ProcessingDuration=verdict.latency_ns / 1e6,
        ),
        ResultContent=content(verdict),
    )
