package a

import "testing"

func TestThere(*testing.T) {}
