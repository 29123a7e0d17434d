"""Files: input fields (`input`), results that ParaView opens (`fields`), checkpoints
(`checkpoint`).
"""
