#!/bin/sh
echo "the first program of this successor ends at once"
exit 1
