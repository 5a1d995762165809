// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.20;

/// Every way in which a call can fail, and a slot to prove.
contract Reverts {
    error TooMuch(uint256 asked, uint256 have);

    event Set(address indexed by, uint256 indexed key, uint256 value);

    mapping(uint256 => uint256) public values;
    uint256 public immutable start;

    constructor(uint256 start_) payable {
        start = start_;
    }

    function set(uint256 key, uint256 value) external {
        values[key] = value;
        emit Set(msg.sender, key, value);
    }

    function withReason() external pure {
        require(false, "no such luck");
    }

    function withCustomError(uint256 asked) external view {
        revert TooMuch(asked, start);
    }

    function withPanic(uint256 divisor) external view returns (uint256) {
        return start / divisor;
    }

    function withNothing() external pure {
        revert();
    }

    function forEver() external pure {
        while (true) {}
    }
}
