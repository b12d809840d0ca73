"""What this machine has: memory, disk, network. Import the file that has the name: commands that only read a crawl's directory
import few of them.
"""
