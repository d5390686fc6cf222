package rotation

import "testing"

func TestStageGrows(t *testing.T) {
	stages := []Keys{
		{},
		{Verify: []int{1}, Sign: 1},
		{Verify: []int{1, 2}, Sign: 1},
		{Verify: []int{1, 2}, Sign: 2},
		{Verify: []int{2}, Sign: 2},
		{Verify: []int{2, 3}, Sign: 2},
		{Verify: []int{2, 3}, Sign: 3},
		{Verify: []int{3}, Sign: 3, External: true},
	}
	for i, want := range []int{0, 3, 4, 5, 6, 7, 8, 9} {
		if got := stages[i].Stage(); got != want {
			t.Errorf("stage of %+v is %d, want %d", stages[i], got, want)
		}
	}
}
