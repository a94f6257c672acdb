#!/bin/sh
echo "the shop answers"
