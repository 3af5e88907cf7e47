UPDATE registered_system SET hand_out = :its_hand_out
WHERE tenant = :tenant AND region = :region AND registration = :its_registration;
