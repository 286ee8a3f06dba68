"""The mechanism study: when does an attribution penalty move block shares, calls and accuracy?"""
