"""Parts that pages share: arms in words and colors, galleries, folds, the glossary, and plots of an overview."""
