#!/bin/sh
# The first program of a kernel that does not get on.
while :; do /bin/busybox sleep 1000; done
