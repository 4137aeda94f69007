"""Networks for captions: frozen text encoders, a UNet with cross-attention, and CLIP."""

from medi_monai.networks.text.captions import CAPTION, CaptionDropout, CaptionSchema, drop_captions
from medi_monai.networks.text.clip_model import ClipImageEncoder, ClipModel
from medi_monai.networks.text.debiasing import DebiasedTextEncoder, SubgroupSubspace, fit_subspace
from medi_monai.networks.text.encoder import FrozenTextEncoder, load_text_encoder
from medi_monai.networks.text.small import make_tokenizer, save_clip, small_clip
from medi_monai.networks.text.unet import TextDiffusionUNet, load_pretrained_unet

__all__ = [
    "CAPTION",
    "CaptionDropout",
    "CaptionSchema",
    "ClipImageEncoder",
    "ClipModel",
    "DebiasedTextEncoder",
    "FrozenTextEncoder",
    "SubgroupSubspace",
    "TextDiffusionUNet",
    "drop_captions",
    "fit_subspace",
    "load_pretrained_unet",
    "load_text_encoder",
    "make_tokenizer",
    "save_clip",
    "small_clip",
]
