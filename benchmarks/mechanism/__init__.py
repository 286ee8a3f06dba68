"""The mechanism study: when does an attribution penalty change block shares, tool calls and accuracy?"""
