package rotation

// Stage orders the keys of an API server by their progress. It only grows while keys are rotated:
//
//	accepts [n],     signs with n      3n
//	accepts [n,n+1], signs with n      3n+1
//	accepts [n,n+1], signs with n+1    3n+2
//	accepts [n+1],   signs with n+1    3n+3
//
// It is 0 for no keys. Whoever writes the keys of an API server refuses a lower stage than it holds, so that a plan
// that was made before others acted on theirs does no harm.
func (k Keys) Stage() int {
	switch {
	case len(k.Verify) == 0:
		return 0
	case len(k.Verify) == 1:
		return 3 * k.Verify[0]
	case k.Sign == k.Verify[0]:
		return 3*k.Verify[0] + 1
	default:
		return 3*k.Verify[0] + 2
	}
}
