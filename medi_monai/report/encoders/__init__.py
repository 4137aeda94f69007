"""The section of the experiment's page on its second encoder."""

from medi_monai.report.encoders.second_encoder import add_second_encoder, distance_sentence, second_sentence

__all__ = ["add_second_encoder", "distance_sentence", "second_sentence"]
